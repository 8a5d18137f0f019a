"""
Installs maskx_d2 into an environment that has torch, torchvision and detectron2.

Those three are not listed as requirements, as detectron2 does not list torch: which build fits
depends on the machine, and whoever has a working detectron2 keeps it. ``import maskx_d2`` says in
one sentence which of them is missing. ``make install`` brings them all.
"""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="maskx_d2",
    version="0.1.0",
    description="Partial mask supervision for detectron2: boxes for all categories, masks for some",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.9",
    packages=find_packages(include=["maskx_d2", "maskx_d2.*"]),
    # maskx_d2/model_zoo/configs is a link to configs/, so that they are found when installed.
    package_data={"maskx_d2.model_zoo": ["configs/**/*.yaml", "configs/**/*.py"]},
    install_requires=["numpy", "pycocotools", "tabulate", "tqdm"],
    extras_require={"dev": ["mypy", "pytest", "ruff"]},
    entry_points={"console_scripts": ["maskx = maskx_d2.cli:main"]},
)
