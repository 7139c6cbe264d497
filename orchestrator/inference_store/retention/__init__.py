"""Retention: policies, and the tasks that delete what is older than a policy allows."""
