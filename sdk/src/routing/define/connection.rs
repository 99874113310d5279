//! `define_connection!`.

/// Makes a connection class of one's own: a type of this name that is a
/// [`ConnectionMarker`](crate::routing::ConnectionMarker), and its pairs in the matrix. The class
/// has a listener of its own: `sidelane sidecar --listen NAME=ADDRESS`.
///
/// ```
/// use sidelane::routing::{
///     ConnectionClass, ConnectionMarker, General, RouteTable, RoutingBuilder, Rule, ServiceRouting,
/// };
/// use sidelane::{define_connection, define_service_routing};
///
/// define_connection!(
///     /// Other companies, over a line of their own.
///     pub Partners,
///     number = 16,
///     lanes = [General],
/// );
///
/// define_service_routing!(
///     Settlement,
///     service = "bank.v1.Settlement",
///     category = Worker,
///     connection = Partners,
///     swimlane = General,
///     secure = true,
///     persistent = false,
///     load_balancing = RoundRobin,
/// );
///
/// static CLASSES: &[ConnectionClass] = &[Partners::CLASS];
/// static RULES: &[Rule] = &[Settlement::RULE];
/// pub static ROUTES: RouteTable = RouteTable::new(RULES).with_classes(CLASSES);
///
/// assert_eq!(Partners::NAME, "partners");
/// let routing = RoutingBuilder::new().connection(Partners).general().build();
/// assert_eq!(routing.class(), Partners::CLASS);
/// ```
///
/// | field | what it is |
/// | --- | --- |
/// | `number` | its number, 16 to 255, unique in the mesh |
/// | `lanes` | those of Sidelane's own lanes that go with it, as types, in brackets |
/// | `name` | as rules have it; the type's in lower case: `OtherBanks` is `other_banks` |
///
/// The fields come in any order; `name` may be left out. A lane of one's own names its classes
/// itself, in [`define_swimlane!`](crate::define_swimlane). A number or name of Sidelane's own does
/// not compile; two classes of one number or name do not compile in one
/// [`RouteTable`](crate::routing::RouteTable).
///
/// ```compile_fail
/// use sidelane::define_connection;
/// use sidelane::routing::General;
///
/// // error: numbers of classes below 16 are Sidelane's own
/// define_connection!(Partners, number = 2, lanes = [General]);
/// ```
#[macro_export]
macro_rules! define_connection {
    ($(#[$meta:meta])* $vis:vis $name:ident, $($fields:tt)*) => {
        $crate::define_connection! {
            @read [$(#[$meta])* $vis $name] [] [] []; $($fields)*,
        }
    };

    // One field after the other goes into its slot; the slots stand in the order of the arms.
    (@read $n:tt [$($x:tt)*] $b:tt $c:tt;
        number = $v:expr, $($rest:tt)*) => { $crate::define_connection! {
        @read $n [$($x)* ($v)] $b $c; $($rest)*
    } };
    (@read $n:tt $a:tt [$($x:tt)*] $c:tt;
        lanes = [$($v:ty),* $(,)?], $($rest:tt)*) => { $crate::define_connection! {
        @read $n $a [$($x)* ([$($v),*])] $c; $($rest)*
    } };
    (@read $n:tt $a:tt $b:tt [$($x:tt)*];
        name = $v:expr, $($rest:tt)*) => { $crate::define_connection! {
        @read $n $a $b [$($x)* ($v)]; $($rest)*
    } };

    // All is read: the last comma may have been there already.
    (@read $n:tt $a:tt $b:tt $c:tt; $(,)?) => {
        $crate::define_connection! { @whole $n number $a, lanes $b, name $c, }
    };
    (@read $n:tt $a:tt $b:tt $c:tt; lanes = $($rest:tt)*) => { ::core::compile_error!(
        "define_connection!: `lanes` is a list of lanes in brackets, such as `lanes = [General]`"
    ); };
    (@read $n:tt $a:tt $b:tt $c:tt; $field:ident = $($rest:tt)*) => {
        ::core::compile_error!(::core::concat!(
            "define_connection!: `", ::core::stringify!($field),
            "` is no field; fields are number, lanes, name"
        ));
    };
    (@read $n:tt $a:tt $b:tt $c:tt; $first:tt $($rest:tt)*) => { ::core::compile_error!(::core::concat!(
        "define_connection!: a field is written `name = value`, and a comma follows; it goes wrong \
         at `", ::core::stringify!($first), "`"
    )); };

    // What is missing, in the order of the slots, then what is there twice.
    (@whole $n:tt number [], $($rest:tt)*) => { $crate::define_connection!(@missing number); };
    (@whole $n:tt number $a:tt, lanes [], $($rest:tt)*) => {
        $crate::define_connection!(@missing lanes);
    };
    (@whole $n:tt $($field:ident [$($x:tt)?],)*) => {
        $crate::define_connection! { @make $n $($field [$($x)?],)* }
    };
    (@whole $n:tt $($field:ident $x:tt,)*) => {
        $($crate::define_connection! { @once $field $x })*
    };
    (@missing $field:ident) => { ::core::compile_error!(::core::concat!(
        "define_connection!: `", ::core::stringify!($field), "` is missing; every class says \
         number, lanes"
    )); };
    (@once $field:ident [$($x:tt)?]) => {};
    (@once $field:ident $x:tt) => { ::core::compile_error!(::core::concat!(
        "define_connection!: `", ::core::stringify!($field), "` is given more than once"
    )); };

    (@make [$(#[$meta:meta])* $vis:vis $marker:ident]
        number [($number:expr)],
        lanes [([$($lane:ty),*])],
        name [$(($name:expr))?],
    ) => {
        $(#[$meta])*
        #[doc = "\n\nA connection class, as a type."]
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
        $vis struct $marker;

        const _: () = {
            const DEFINITION: $crate::routing::__private::ClassDefinition =
                $crate::routing::__private::ClassDefinition {
                    number: $number,
                    name: $crate::__name_of_marker!($marker $($name)?),
                    lanes: $crate::routing::__private::lanes_of_class(
                        &[$(<$lane as $crate::routing::LaneMarker>::LANE),*]
                    ),
                };
            // What cannot be is an error here, used or not.
            const CLASS: $crate::routing::ConnectionClass = $crate::routing::ConnectionClass::Own(
                $crate::routing::__private::OwnClass::define(&DEFINITION)
            );

            impl $crate::routing::__private::Opened for $marker {}
            impl $crate::routing::ConnectionMarker for $marker {
                const CLASS: $crate::routing::ConnectionClass = CLASS;
            }
            $(
                impl $crate::routing::__private::Legal<$lane> for $marker {}
                impl $crate::routing::ValidRoutingMatrix<$lane> for $marker {}
                const _: () = ::core::assert!(
                    CLASS.allows(<$lane as $crate::routing::LaneMarker>::LANE)
                );
            )*
        };
    };

    ($($other:tt)*) => { ::core::compile_error!(
        "define_connection! begins with the name of the type, then its fields: \
         `define_connection!(Partners, number = 16, …)`"
    ); };
}
