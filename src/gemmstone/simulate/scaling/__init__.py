"""Fleets that change while they serve: autoscaling, one file a policy, start-up, drain, failures."""
