"""Analysis: records to tables, claims, reports and figures; JAX is never imported here."""
