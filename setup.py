"""Which packages the wheel holds. Everything else about it is in pyproject.toml.

The recipes lie in `configs/` of the checkout and in `all4one/configs` of the wheel. pyproject.toml can either find
packages or give them another folder, but not both.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["all4one*", "launch*", "trainer*", "data_pipelines*"]),
        "all4one.configs",
        "all4one.configs.studies",
    ],
    package_dir={"all4one.configs": "configs"},
)
