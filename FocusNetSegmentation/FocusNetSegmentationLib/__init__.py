"""Bridge between ``focusnet`` and 3D Slicer; of this module, only this package imports slicer, qt or vtk."""
