"""What a pipeline is: specs, contracts, checks, plans, records. Light: imports no engine."""
