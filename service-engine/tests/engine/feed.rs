//! Who may speak to an engine.

use crate::bed::Bed;
use crate::bed::certificates::Authority;
use crate::bed::controller::Controller;
use crate::bed::engine::Host;
use portolan_wire::engine::{CallError, Credentials};

#[test]
fn a_controller_with_a_certificate_of_another_authority_is_refused() {
    let (bed, host) = (Bed::new(), Host::new());
    let _engine = host.start(&bed, &[]);
    let (certificate, key) = Authority::new().sign("controller");
    let stranger = Credentials::new(certificate, key, host.authority.pem.clone()).unwrap();
    let mut controller = Controller::new(&bed, "k8s", stranger);
    let error = controller.routes(&[("192.168.101.0/24", "10.100.1.101")]).apply().unwrap_err();
    assert!(matches!(error, CallError::Status(_)), "{error}");
    let honest = Controller::new(&bed, "k8s", host.authority.controller());
    assert_eq!(honest.observe().unwrap().accepted, None);
}

#[test]
fn an_engine_with_a_certificate_of_another_authority_is_not_believed() {
    let (bed, host) = (Bed::new(), Host::new());
    let _engine = host.start(&bed, &[]);
    let (certificate, key) = host.authority.sign("controller");
    let careful = Credentials::new(certificate, key, Authority::new().pem).unwrap();
    let error = Controller::new(&bed, "k8s", careful).observe().unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
}
