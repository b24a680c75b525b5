"""Reports: tables, derivations and exports."""
