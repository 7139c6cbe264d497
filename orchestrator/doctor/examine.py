"""The examination: every check in its order, each only where what it asks is there."""

from __future__ import annotations

from orchestrator.doctor import activity, servers
from orchestrator.doctor.finding import Finding, Level
from orchestrator.settings import settings


def examine() -> list[Finding]:
    """Run every check; what is not well says how to mend it.

    Servers that are away are findings and not errors. What only a database could tell is left out
    when there is none.
    """
    database = servers.check_database()
    findings = [database]
    migrated = False
    if database.level is not Level.PROBLEM:
        migrations = servers.check_migrations()
        migrated = migrations.level is not Level.PROBLEM
        findings.append(migrations)
    findings.append(servers.check_broker())
    # Where nobody has made an instance, asking must not make half of one.
    if database.level is not Level.PROBLEM or settings().blob_url:
        findings.append(servers.check_blobs())
    if migrated:
        findings += activity.check_activity()
    return findings
