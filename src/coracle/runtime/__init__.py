"""An OCI runtime: config.json becomes a plan, the plan becomes a process (runtime-spec 1.3)."""
