#!/usr/bin/env python
"""
Train and evaluate models with masks for only some of the categories.

The command line is that of detectron2's train_net.py; configs may be ``.yaml`` or ``.py``::

    ./train_net.py --config-file configs/coco/voc2nonvoc/maskx_rcnn_R_50_FPN_1x.yaml --num-gpus 8
    ./train_net.py --config-file ... --resume                    # go on where a run stopped
    ./train_net.py --config-file ... --eval-only MODEL.WEIGHTS model_final.pth

To train on data of your own, register it at the top of a copy of this file, not under ``if``: with
several GPUs every process reads the top again. docs/DATA.md has an example.
"""

from maskx_d2.engine import run

if __name__ == "__main__":
    run()
