"""One retryable step each: take ids and settings, call core and storage, return small values.

Plain functions with standard logging: `flows` runs them as they are, or wrapped by Prefect.
"""
