"""Runs training as processes of this machine."""
