"""Measuring: the users' ``pilotlight bench``, and the developers' benchmarks.

* Users: ``workloads/`` makes the calls, ``run`` and ``models`` go through them, ``targets`` judges, ``results`` is the
  file, ``statistics``, ``compare``, ``spreadsheet`` and ``report/`` are what is made of it.
* Developers: the modules with a ``main``, which ``scripts/bench NAME`` runs.
* ``first_token``, ``children`` and ``proc`` serve both, ``demo`` is ``pilotlight demo``.
"""
