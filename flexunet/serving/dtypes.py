"""The types of tensors that are served: their numbers in TensorFlow's messages and C API, and NumPy's types."""

from typing import Final

import numpy as np

# TF_STRING in tensorflow/c/tf_datatype.h, whose numbers are those of tensorflow.DataType.
STRING: Final = 7
DTYPES: Final[dict[int, np.dtype]] = {
    1: np.dtype(np.float32),
    2: np.dtype(np.float64),
    3: np.dtype(np.int32),
    4: np.dtype(np.uint8),
    STRING: np.dtype(object),
    9: np.dtype(np.int64),
    10: np.dtype(np.bool_),
}
DTYPE_NUMBERS: Final = {dtype: number for number, dtype in DTYPES.items()}
