"""The wheel takes the profiles and the weights along; everything else stands in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithShipped(build_py):
    """Copies what the repository keeps at its top into the package's folder `shipped`."""

    def run(self):
        super().run()
        if not self.editable_mode:  # there the checkout's own are read
            for pattern in ("profiles/**/*.yaml", "weights/zfnet_*.safetensors"):
                for path in Path().glob(pattern):
                    target = Path(self.build_lib, "zfnet", "shipped", path)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, target)


setup(cmdclass={"build_py": BuildWithShipped})
