"""Webhooks: addresses that are told when jobs end, signed and at least once."""
