"""The stages of ``benchmarks/gpu.py``: each has ``run(options, report)``, which returns whether all went well."""
