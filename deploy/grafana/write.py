"""Write ``deploy/grafana/dashboards/*.json`` anew; ``scripts/dashboards`` runs this, and a test compares."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.first_token import first_token
from deploy.grafana.gpu import gpu
from deploy.grafana.itself import itself
from deploy.grafana.overview import overview
from deploy.grafana.residency import residency
from deploy.grafana.traffic import traffic

FOLDER: Final = Path(__file__).parent / "dashboards"
BOARDS: Final = (overview, first_token, traffic, residency, itself, gpu)


def dashboards() -> dict[str, str]:
    """What is to be in the folder: the text of each file by its name."""
    built = [board() for board in BOARDS]
    return {
        f"{board.uid}.json": json.dumps(board.build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"
        for board in built
    }


if __name__ == "__main__":
    for name, text in dashboards().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
