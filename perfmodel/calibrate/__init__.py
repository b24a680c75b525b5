"""Calibration: fitting the coefficients of registered formulas to measurements."""
