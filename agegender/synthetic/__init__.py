"""Drawn faces, a stand-in for UTKFace."""
