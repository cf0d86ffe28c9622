"""The packages of the wheel: the library and its command; training is run from a checkout or the image.

`pipeline`, `components` and the others are common names, and a wheel would put them over a user's own packages.
"""

from setuptools import find_packages, setup

setup(
    packages=find_packages(include=["flexunet", "flexunet.*"]),
    package_data={"flexunet": ["py.typed", "core/config/presets/*.toml", "reporting/templates/*"]},
)
