"""Two processes on CPU, one of which sees no mask: no hang, and equal gradients on both."""

import pytest
import torch
import torch.multiprocessing as mp
from conftest import make_batch, make_targets, tiny_cfg
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

OPTIONS = {
    "maskx": ("MODEL.MASKX.MLP_BRANCH", True),
    "class-agnostic": (
        *("MODEL.ROI_HEADS.NAME", "SupervisedMasksROIHeads"),
        *("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
        *("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True),
    ),
}


def step(rank, folder, options):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    torch.manual_seed(0)
    cfg = tiny_cfg("coco/voc2nonvoc/maskx_rcnn_no_mlp_R_50_FPN_1x.yaml", *options)
    model = DistributedDataParallel(build_model(cfg), broadcast_buffers=False)
    has_mask = [True, False] if rank == 0 else [False, False]
    with EventStorage():
        losses = model(make_batch(make_targets(has_mask, [0, 1])))
        sum(losses.values()).backward()
    gradients = {n: p.grad for n, p in model.module.named_parameters() if p.requires_grad}
    torch.save((losses["loss_mask"].item(), gradients), f"{folder}/{rank}.pth")
    distributed.destroy_process_group()


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_rank_without_masks(tmp_path, options):
    mp.spawn(step, args=(str(tmp_path), options), nprocs=2)
    (loss, gradients), (loss_without, others) = (
        torch.load(tmp_path / f"{rank}.pth") for rank in range(2)
    )
    assert loss > 0
    assert loss_without == 0
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        assert torch.equal(gradient, others[name]), name
        if "mask_head" in name or "weight_transfer" in name:
            assert gradient.any(), name
