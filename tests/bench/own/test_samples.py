from __future__ import annotations

from proxy.bench.own.figures import DIRECT, NGINX, PILOTLIGHT
from proxy.bench.own.samples import KINDS, Extent, Samples


def test_each_row_is_made_of_its_own_samples() -> None:
    samples = Samples(rest_kib={NGINX: 1024, PILOTLIGHT: 51200}, streams_kib={NGINX: 2024, PILOTLIGHT: 71200})
    for kind in KINDS:
        samples.first_token_s |= {
            (kind, DIRECT): [0.0001],
            (kind, NGINX): [0.0002, 0.0003, 0.9],
            (kind, PILOTLIGHT): [0.0005],
        }
        samples.cpu_s |= {(kind, NGINX): [0.01, 0.01], (kind, PILOTLIGHT): [0.02, 0.01]}
        samples.tokens |= {(kind, NGINX): 2000, (kind, PILOTLIGHT): 2000}
    rows = samples.rows(Extent(idle_streams=1000))
    values = [{way: round(value, 6) for way, value in row.values.items()} for row in rows]
    assert values == [
        {NGINX: 0.2, PILOTLIGHT: 0.4},
        {NGINX: 0.2, PILOTLIGHT: 0.4},
        {NGINX: 10.0, PILOTLIGHT: 15.0},
        {NGINX: 10.0, PILOTLIGHT: 15.0},
        {NGINX: 1.0, PILOTLIGHT: 50.0},
        {NGINX: 1.0, PILOTLIGHT: 20.0},
    ]
