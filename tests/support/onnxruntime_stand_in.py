"""What Triton's onnxruntime backend does with a batch, as a model of the python backend, which is what the tests have.

It stacks the requests of a batch into one array and runs the file once. Unequal shapes cannot be stacked: one
such batch, and every request in it fails.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        path = f"{args['model_repository']}/{args['model_version']}/model.onnx"
        self.session = onnxruntime.InferenceSession(path, options)

    def execute(self, requests: list[Any]) -> list[Any]:
        names = ("input_ids", "attention_mask")
        tensors = [
            [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in names] for request in requests
        ]
        stacked = {name: np.concatenate([one[place] for one in tensors]) for place, name in enumerate(names)}
        (vectors,) = self.session.run(None, stacked)
        ends = np.cumsum([len(ids) for ids, _ in tensors])[:-1]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("sentence_embedding", np.ascontiguousarray(part))])
            for part in np.split(vectors, ends)
        ]
