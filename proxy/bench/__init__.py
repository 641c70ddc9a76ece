"""Measuring: the users' ``pilotlight bench``, and what else measures or starts programs.

* ``workloads/`` makes the calls, ``run`` and ``models`` go through them, ``targets`` judges, ``results`` is the file,
  ``statistics``, ``compare``, ``spreadsheet`` and ``report/`` are what is made of it.
* ``demo`` is ``pilotlight demo``.
* ``own/`` has the developers' benchmarks, which ``scripts/bench NAME`` runs; ``children`` and ``collector`` serve both,
  ``first_token`` the doctor too.
"""
