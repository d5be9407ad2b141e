"""Commands on what there is to do: dry run, retry, backfill."""
