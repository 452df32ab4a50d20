"""The geometry of a declaration: matrices, presolve, linear programs, faces, vertices."""
