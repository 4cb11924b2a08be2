"""Synthetic faces, a stand-in for UTKFace."""
