//! A sidecar that is compiled with the rules of `proto/`, and takes the flags of the stock one.

sidelane::include_protos!();

fn main() -> std::process::ExitCode {
    sidelane_sidecar::main(ROUTES)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_rules_of_the_protos_are_compiled_in() {
        let rule = super::ROUTES
            .rules()
            .find(|rule| rule.service == "bank.v1.Ledger");
        let rule = rule.unwrap();
        assert_eq!(rule.lane.name(), "settlement");
        assert_eq!(rule.class.name(), "partners");
        assert!(rule.method("Balance").unwrap().idempotent);
        assert_eq!(super::ROUTES.lanes(), [rule.lane]);
        assert_eq!(super::ROUTES.classes(), [rule.class]);
    }
}
