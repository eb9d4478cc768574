"""Run the corpus and write its table into docs/input.md: python -m tests.corpus"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.corpus import table
from tests.corpus.cases import TABLES, cases
from tests.corpus.run import contract_of, plain

from nightjar.engine.session import start

spark = start("corpus", table.DOCUMENT.parents[1] / "spark-conf" / "local.conf")
spark.sparkContext.setLogLevel("OFF")
with tempfile.TemporaryDirectory() as scratch:
    root = Path(scratch)
    contracts = {name: contract_of(name, root) for name in TABLES}
    found = []
    for number, case in enumerate(cases()):
        path = case.write(root / str(number))
        if path.is_fifo():  # nobody writes to it: a reader would wait for ever
            found.append("(not run)")
        else:
            found.append(plain(spark, case, path, contracts[case.table]))
document = table.DOCUMENT.read_text()
table.DOCUMENT.write_text(table.replaced(document, table.section(cases(), found)))
sys.stdout.write(table.section(cases(), found).split("\n")[0] + "\n")
spark.stop()
