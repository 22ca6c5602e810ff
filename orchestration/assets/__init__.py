"""The tables of the lake as Dagster assets, one module a layer."""
