"""Generates the Python client out of the OpenAPI document: `python -m contract.client build`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

from contract.document import read_document

PACKAGE: Final = "lariba_client"
_CONFIGURATION: Final = Path(__file__).parent / "client.yaml"


def generate(folder: Path) -> Path:
    """Write the document and the package `lariba_client` into `folder`; the package's path.

    Raises CalledProcessError if the generator has so much as a warning: what it warns of is missing in the client.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document = folder / "openapi.json"
    document.write_text(json.dumps(read_document(), indent=2))
    package = folder / PACKAGE
    files = ["--path", str(document), "--output-path", str(package), "--config", str(_CONFIGURATION)]
    options = ["--meta", "none", "--overwrite", "--fail-on-warning"]
    subprocess.run([sys.executable, "-m", "openapi_python_client", "generate", *files, *options], check=True)
    return package


if __name__ == "__main__":
    print(f"The client is in {generate(Path(sys.argv[1]))}; its package needs httpx and attrs.")
