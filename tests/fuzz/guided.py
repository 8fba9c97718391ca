"""``python -m tests.fuzz.guided READER [libFuzzer's options]``: changed bytes, led by the code that they reach.

atheris (libFuzzer) begins with the examples of `readers` and keeps what reaches new lines, in `outputs/fuzz/READER`. A
reader that raises what it may not ends it, and the bytes lie beside as `crash-...`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["gateway", "shared"]):
    from tests.fuzz.readers import READERS

KEPT = Path("outputs", "fuzz")


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in READERS:
        sys.exit(
            f"usage: python -m tests.fuzz.guided READER [-max_total_time=60]; a reader is one of {', '.join(READERS)}"
        )
    name, options = sys.argv[1], sys.argv[2:]
    reader, folder = READERS[name](Path(tempfile.mkdtemp())), KEPT / name
    folder.mkdir(parents=True, exist_ok=True)
    for number, example in enumerate(reader.examples):
        (folder / f"example-{number}").write_bytes(example)

    def once(content: bytes) -> None:
        reader.refuses(content)

    atheris.Setup([sys.argv[0], str(folder), f"-artifact_prefix={folder}/", *options], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
