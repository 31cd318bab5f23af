"""Policies of payments: lists of recipients, limits, approvals; asked at creation and before signing."""
