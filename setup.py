"""
Installs maskx_d2 into an environment that has torch, torchvision and detectron2.

Those three are not listed as requirements, as detectron2 does not list torch: which build fits
depends on the machine, and whoever has a working detectron2 keeps it. ``import maskx_d2`` says in
one sentence which of them is missing. ``make install`` brings them.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup


def _read(path: str) -> str:
    return (Path(__file__).parent / path).read_text(encoding="utf-8")


setup(
    name="maskx_d2",
    version=re.search(r'__version__ = "(.+)"', _read("maskx_d2/__init__.py"))[1],
    description="Partial mask supervision for detectron2: boxes for all categories, masks for some",
    long_description=_read("README.md"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["maskx_d2", "maskx_d2.*"]),
    # maskx_d2/model_zoo/configs is a link to configs/, so that they are found when installed.
    package_data={
        "maskx_d2.model_zoo": ["configs/**/*.yaml", "configs/**/*.py"],
        "maskx_d2.report": ["template.html"],
    },
    install_requires=[
        "ijson",
        "jinja2",
        "matplotlib>=3.7",
        "numpy",
        "Pillow>=9.1",
        "pycocotools",
        "scipy>=1.10",
        "shapely",  # detectron2 cuts polygons with it and does not require it
        "shtab",
        "tabulate",
        "tqdm",
    ],
    # emoji: the rasteriser of datasets/make_emoji.py; export: `maskx export --format onnx`
    extras_require={
        "emoji": ["resvg-py"],
        "fast": ["faster-coco-eval>=1.8"],  # COCO and LVIS evaluation in C++
        "export": ["onnx", "onnxruntime"],
        "dev": ["hypothesis", "mypy", "pytest", "pytest-timeout", "ruff"],
    },
    entry_points={"console_scripts": ["maskx = maskx_d2.cli:main"]},
)
