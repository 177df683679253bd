"""Kernel forms: how long one call takes as a function of its work, a device's rates and a handful of coefficients.

Each form is `form(op, rates, coefficients) -> KernelTime`; the same function is fitted by calibrate and used by predict.
"""
