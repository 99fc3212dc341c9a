"""Repositories that earlier versions wrote, kept to be read by every later one."""
