"""Helpers of the tests: servers, proxies, fakes.  Nothing shipped imports this."""
