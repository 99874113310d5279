use sidelane::routing::{AdminInternalServiceRouting, External, General, TypedConnection};

fn wrong(users: &TypedConnection<External, General>) {
    let _ = users.bind::<AdminInternalServiceRouting>();
}

fn main() {}
