"""The types of tensors that are served: TensorFlow's numbers and names of them, and NumPy's types."""

from typing import Final

import numpy as np

# TF_STRING in tensorflow/c/tf_datatype.h, whose numbers are those of tensorflow.DataType.
STRING: Final = 7
_TYPES: Final = (
    (1, "DT_FLOAT", np.float32),
    (2, "DT_DOUBLE", np.float64),
    (3, "DT_INT32", np.int32),
    (4, "DT_UINT8", np.uint8),
    (STRING, "DT_STRING", object),
    (9, "DT_INT64", np.int64),
    (10, "DT_BOOL", np.bool_),
)
DTYPES: Final[dict[int, np.dtype]] = {number: np.dtype(kind) for number, _, kind in _TYPES}
DTYPE_NUMBERS: Final = {dtype: number for number, dtype in DTYPES.items()}
DTYPE_NAMES: Final = {number: name for number, name, _ in _TYPES}
