"""Approvals of payments above a threshold, by principals other than the one who asked for the payment."""

from __future__ import annotations

from typing import Final

REJECTED: Final = "PolicyRejected"
EXPIRED: Final = "PolicyApprovalExpired"
