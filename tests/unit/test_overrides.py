"""Config files and overrides with a mistake in them: one sentence, and what was meant."""

import pytest

from maskx_d2 import model_zoo
from maskx_d2.engine.lazy_main import load_lazy
from maskx_d2.engine.overrides import merge_lazy_overrides
from maskx_d2.engine.yaml_main import load_config

YAML = model_zoo.get_config_file("coco/voc2nonvoc/maskx_rcnn_R_50_FPN_1x.yaml")
LAZY = model_zoo.get_config_file("shapes/maskx.py")


@pytest.mark.parametrize(
    ("opts", "says"),
    [
        (["INPUT.CROPS.ENABLED", "True"], "no key 'INPUT.CROPS.ENABLED'; did you mean 'INPUT.CR"),
        (["NOTHING.LIKE.IT", "1"], r"^the config has no key 'NOTHING.LIKE.IT'\.$"),
        (["SOLVER.MAX_ITER"], "KEY VALUE, such as .* 'SOLVER.MAX_ITER' has an odd number"),
        (["SOLVER.MAX_ITER=3", "SEED=1"], "with a space, not 'SOLVER.MAX_ITER=3'"),
        (["INPUT.CROP.ENABLED", "3.5"], "Type mismatch"),
    ],
)
def test_yaml_overrides(opts, says):
    with pytest.raises(ValueError, match=says):
        load_config(YAML, opts)


@pytest.mark.parametrize(
    ("opts", "says"),
    [
        (["SOLVER.MAX_ITER", "3"], r"key=value, such as train\.max_iter=2000, not 'SOLVER.MAX_I"),
        (["train.max_itr=3"], r"no key 'train.max_itr'; did you mean 'train.max_iter'\? \(\+train"),
        (["trian.max_iter=3"], "did you mean 'train.max_iter'"),
        (["train.max_iter=[1"], "is not an override that can be read"),
        (["train.max_iter.x=1"], "is not a config"),
        (["~train.max_iter=1"], "deletion is not"),
    ],
)
def test_lazy_overrides(opts, says):
    with pytest.raises(ValueError, match=says):
        load_lazy(LAZY, opts)


def test_keys_that_a_lazy_config_may_get(caplog):
    own = ["train.vis_period=100", "train.seed=3", "train.roi_cache=x", "train.mask_probe=true"]
    cfg = load_lazy(
        LAZY, [*own, "+train.max_itr=3", "dataloader.train.aspect_ratio_grouping=false"]
    )
    assert (cfg.train.vis_period, cfg.train.max_itr) == (100, 3)
    assert not caplog.text
    assert merge_lazy_overrides(cfg, ["train.whatever=1"]).train.whatever == 1
    assert "had no key 'train.whatever'; it was added" in caplog.text


@pytest.mark.parametrize(
    "content", [b"just words", b"- a\n- list", b"\x89PNG\x00\xff", b"a: [1", b""]
)
def test_files_that_are_no_config(content, tmp_path):
    path = tmp_path / "model.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model.yaml' is not a config of detectron2; name a"):
        load_config(str(path))
    path.write_text("SOLVER:\n  MAX_ITERS: 3\n")
    with pytest.raises(ValueError, match=r"model.yaml': .* no key 'SOLVER.MAX_ITERS'; did you me"):
        load_config(str(path))
    (tmp_path / "code.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match=r"code.py' is not a LazyConfig: it has no 'model'"):
        load_lazy(str(tmp_path / "code.py"))
