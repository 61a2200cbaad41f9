"""The page: a counter and an upload, both in the memory of the process that has the session."""

from __future__ import annotations

import os

import streamlit as st

st.title("Streamlit on sticky workers")
st.session_state.setdefault("count", 0)
if st.button("click"):
    st.session_state.count += 1
st.text(f"{st.session_state.count} clicks, by worker {os.getpid()}")
file = st.file_uploader("a file")
if file is not None:
    st.text(f"{file.name} has {len(file.getvalue())} bytes")
