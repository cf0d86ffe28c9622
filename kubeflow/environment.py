"""Names that the package sets and the nodes read: keys of the database's secret, and their variables."""

from typing import Final

DATABASE_VARIABLES: Final = {
    key: f"FLEXUNET_METADATA_{key.upper()}" for key in ("kind", "host", "port", "database", "user", "password")
}
# `sslrootcert` is a path inside the container: that of a certificate in the image or on the volume.
OPTIONAL_VARIABLES: Final = {key: f"FLEXUNET_METADATA_{key.upper()}" for key in ("sslmode", "sslrootcert")}
# How many GPUs a node was given: training on the CPU because of a wrong image would only be slow.
GPUS_VARIABLE: Final = "FLEXUNET_GPUS"
