"""Run by the converter's own environment: every ``N.pt2`` in a folder to ``N.tflite``, images channels_last."""

import sys
from pathlib import Path

import litert_torch
import torch

if __name__ == "__main__":
    for path in sorted(Path(sys.argv[1]).glob("*.pt2")):
        program = torch.export.load(path)
        (x,), _ = program.example_inputs
        module = program.module()
        if x.is_floating_point():  # others are pixels, channels_last as they are
            images_out = module(x).dim() == 4
            module = litert_torch.to_channel_last_io(module, args=[0], outputs=[0] if images_out else [])
            x = x.permute(0, 2, 3, 1).contiguous()
        model = litert_torch.convert(module, (x,))
        model.export(str(path.with_suffix(".tflite")))
