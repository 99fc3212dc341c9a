"""What backups cost: C = C_store + C_backup + C_restore, with units, prices and their sources."""
