//! A server behind a sidecar, as a process of its own: see `sidelane_tests::app`.

fn main() {
    sidelane_tests::app::main(std::env::args().skip(1));
}
