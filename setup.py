"Build the distribution from settings.ini (the part of the metadata pyproject.toml declares dynamic)."
import re
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

root = Path(__file__).parent
cfg = ConfigParser(delimiters=["="])
cfg.read(root/"settings.ini", encoding="utf-8")
cfg = cfg["DEFAULT"]
lib = cfg["lib_path"]
version = re.search(r'^__version__\s*=\s*"([^"]+)"', (root/lib/"__init__.py").read_text(encoding="utf-8"), re.M)[1]
extras = {}
for key, value in cfg.items():
    if key.endswith("_requirements"):
        extras[key.removesuffix("_requirements").replace("_", "-")] = value.split()

setup(
    version=version,
    license="Apache-2.0",
    author=cfg["author"], author_email=cfg["author_email"] or None,
    keywords=cfg["keywords"].split(),
    long_description=(root/"README.md").read_text(encoding="utf-8") if (root/"README.md").exists() else "",
    long_description_content_type="text/markdown",
    classifiers=["Development Status :: 3 - Alpha",
                 "Intended Audience :: Developers", "Intended Audience :: Science/Research",
                 "Natural Language :: English", "Topic :: Scientific/Engineering :: Artificial Intelligence"] +
                [f"Programming Language :: Python :: 3.{v}" for v in (11, 12, 13, 14)],
    packages=find_packages(include=[lib, lib+".*"]),
    package_data={lib: ["py.typed"] + [f"town_weights/**/*.{ext}" for ext in ("safetensors", "json", "jinja", "md")]},
    include_package_data=False,   # exactly the line above; MANIFEST.in says the same for the sdist
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points=dict(console_scripts=cfg["console_scripts"].split(), nbdev=[f"{lib}={lib}._modidx:d"]),
    python_requires=">="+cfg["min_python"],
    zip_safe=False,
)
