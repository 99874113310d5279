use sidelane::sender::Bound;

struct Orders;

fn wrong() {
    let _ = Bound::<Orders>::connect();
}

fn main() {}
