"""Run by the converter's own environment: every ``N.tflite`` in a folder to ``N.int8``, as ``N.json`` says.

``N.npy`` has the batches that ranges are taken from, ``[n, B, H, W, C]``. ``N.json``: ``inner``, whether the input is
int8; ``weights``, the number of weights of each convolution and linear layer in order, and ``floats``, which of them
stay floats, with what follows on them.
"""

import json
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe

KINDS = schema.BuiltinOperator
WEIGHTED, BEFORE = {KINDS.CONV_2D, KINDS.DEPTHWISE_CONV_2D, KINDS.FULLY_CONNECTED}, {KINDS.PAD, KINDS.PADV2}
NO_QUANTIZE = quantizer.AlgorithmName.NO_QUANTIZE


def owned(model, weights):
    """The names of the outputs of each operator, and the place of the layer with weights that it belongs to.

    That is the one it is or follows on; of a padding the one that it comes before.
    """
    graph, place = model.subgraphs[0], -1
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        kind = max(code.builtinCode, code.deprecatedBuiltinCode)
        if kind in WEIGHTED:
            place += 1
            if [np.prod(graph.tensors[operator.inputs[1]].shape)] != weights[place : place + 1]:
                sys.exit("its layers with weights come in another order than the network's")
        names = [graph.tensors[output].name.decode() for output in operator.outputs]
        yield names, max(place, 0) + (kind in BEFORE and place >= 0)


def escaped(name):
    """A regular expression of this name alone."""
    return "".join(c if c.isalnum() else f"[{c}]" if c != "^" else r"\^" for c in name)


if __name__ == "__main__":
    for path in sorted(Path(sys.argv[1]).glob("*.tflite")):
        asked = json.loads(path.with_suffix(".json").read_text())
        file = path.read_bytes()
        job = quantizer.Quantizer(str(path), recipe.static_wi8_ai8())
        interpreter = Interpreter(model_content=file)
        (signature,) = interpreter.get_signature_list().items()
        maps_out = len(interpreter.get_output_details()[0]["shape"]) == 4
        for operation, inside in (("INPUT", asked["inner"]), ("OUTPUT", maps_out)):
            if not inside:
                job.update_quantization_recipe(".*", operation, None, NO_QUANTIZE)
        if asked["floats"]:
            model = schema.ModelT.InitFromPackedBuf(file, 0)
            for names, place in owned(model, asked["weights"]):
                if place in asked["floats"]:
                    job.update_quantization_recipe(f"^{';'.join(map(escaped, names))};?$", "*", None, NO_QUANTIZE)
        name, (inputs, _) = signature[0], signature[1].values()
        ranges = job.calibrate({name: [{inputs[0]: x} for x in np.load(path.with_suffix(".npy"))]})
        path.with_suffix(".int8").write_bytes(job.quantize(ranges).quantized_model)
