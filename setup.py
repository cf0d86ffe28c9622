"""Packages and the entry point; Apache Beam's --setup_file ships this to workers. The rest is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=find_packages(
        include=[
            f"{name}{suffix}"
            for name in (
                "pipeline",
                "dataset",
                "transform_module",
                "trainer_module",
                "components",
                "serving",
                "reporting",
            )
            for suffix in ("", ".*")
        ]
    ),
    package_data={"pipeline": ["configs/*.toml"], "dataset": ["templates/*"], "reporting": ["templates/*"]},
    entry_points={"console_scripts": ["flexunet = flexunet.cli.main:main"]},
)
