"""The same pipeline on Kubeflow Pipelines: package, node entry points, image, cluster files; in no wheel."""

__path__ = __import__("pkgutil").extend_path(__path__, __name__)
