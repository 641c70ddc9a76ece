"""Pilotlight's own benchmarks, for those who work on it: ``scripts/bench NAME`` runs the module of that name.

* ``relay``: what relaying costs, beside nginx. ``ways`` starts what is compared, ``standin`` answers, ``load`` calls,
  ``proc`` looks at the programs, ``samples`` and ``figures`` make the table.
* ``scheduler``: what a decision costs, and who waits how long; ``arrivals`` is the hour that is not real.
* ``edge``: what letting a request in costs.
* ``slow``: what others notice of clients that send slowly.
* ``embed``, ``batch``: what gathering texts, and what `pilotlight batch`, is worth.
* ``selfcheck``: whether `pilotlight bench` measures right.

``output``, ``table`` and ``costs`` tell and print for them. Nothing else of the package uses this folder.
"""
